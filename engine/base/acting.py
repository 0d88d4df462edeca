"""What a judge grades of a character in a scene, from 1 to 5: the seven criteria of CharacterBox (arXiv 2412.05631)."""

from typing import NamedTuple


class Criterion(NamedTuple):
    """`label`: for people; `about`: what is graded, for the judge and for people."""

    label: str
    about: str


CRITERIA = {
    "knowledge": Criterion("Knowledge", "What it says fits what it knows, and it knows nothing that it cannot know."),
    "behaviour": Criterion("Behaviour", "It does and says what this very character would do and say."),
    "emotion": Criterion("Emotion", "Its feelings are this very character's, and one can feel them in its words."),
    "personality": Criterion("Personality", "The traits of the character show."),
    "immersion": Criterion("Immersion", "It stays within the scene, and never speaks as an assistant or as somebody who plays."),
    "adaptability": Criterion("Adaptability", "It answers what the others say and do, and the scene goes on by it."),
    "coherence": Criterion("Coherence", "What it says fits what it said and did before."),
}
