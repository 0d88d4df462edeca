"""Random cards for property tests: V1, V2 and V3, with fields that nobody knows."""

from typing import Any

from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = st.text("ab {}<>*\n.,'é漢", max_size=30)
KEY = st.text("abc_/. é", min_size=1, max_size=4).map("x-".__add__)  # never a field that a specification knows
NUMBER = st.integers(-10**20, 10**20) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(st.none() | st.booleans() | NUMBER | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3), max_leaves=8)
NAME = TEXT.filter(lambda name: name.strip() != "")
FIELDS = st.fixed_dictionaries(
    {"name": NAME, "description": st.just("A smith.")},
    optional={
        **{key: TEXT | st.none() for key in ("nickname", "personality", "scenario", "first_mes", "mes_example", "system_prompt",
                                             "post_history_instructions", "creator_notes", "creator")},
        "character_version": TEXT | st.integers() | st.none(),
        **{key: st.lists(TEXT | st.none(), max_size=3) | st.none()
           for key in ("alternate_greetings", "tags", "group_only_greetings")},
        "extensions": st.dictionaries(KEY, JSON, max_size=3) | st.none(),
        "character_book": st.none() | st.fixed_dictionaries({"entries": st.lists(JSON, max_size=2)}),
        "assets": st.lists(JSON, max_size=2),
        "creation_date": st.integers(0, 2**31),
    })
UNKNOWN = st.dictionaries(KEY, JSON, max_size=3)


@st.composite
def raw_cards(draw: st.DrawFn) -> dict[str, Any]:
    """The JSON of a card that `parse_card` accepts."""
    fields = {**draw(FIELDS), **draw(UNKNOWN)}
    spec = draw(st.sampled_from(["", "chara_card_v2", "chara_card_v3"]))
    if not spec:
        return fields
    return {"spec": spec, "spec_version": f"{spec[-1]}.0", "data": fields, **draw(UNKNOWN)}
