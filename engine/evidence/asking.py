"""Every speaker is asked every item with every seed, once for all measures; the answers are kept as they come (keeping.py)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.base.errors import UserError
from engine.base.evaluation_events import Replied, Untested
from engine.base.events import Stage, Step, Stream
from engine.base.evidence import ANSWERS, DENSE
from engine.base.ids import StageId
from engine.base.sampling import DEFAULTS, SamplingParams
from engine.evaluation.measure import Item, Reply, Speaker
from engine.evidence.keeping import Answers, digest, identify
from engine.evidence.playing import Player, PlayerFault
from engine.serving.interview import SILENCE, Interview, Said, shared_type


@dataclass
class _Talk:
    """An item with a seed: what was said so far, and the key of the next answer, once its line is known.

    `player`: the identity of who plays the player, after the item's own lines.
    """

    item: Item
    seed: int
    key: str
    player: str = ""
    lines: list[str] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Answers that are still to be given."""
        return (self.item.turns or len(self.item.lines)) - len(self.said)

    @property
    def line_key(self) -> str:
        """The key of the player's next line."""
        return digest(self.key, self.player)

    def hear(self, line: str) -> None:
        """The player says the next line."""
        self.lines.append(line)
        self.key = digest(self.key, line)

    def recall(self, answers: Answers) -> None:
        """Put in what was said before, up to what is not known."""
        while self.left:
            if len(self.lines) == len(self.said):
                if (line := self._known_line(answers)) is None:
                    return
                self.hear(line)
            if (said := answers.of(self.key)) is None:
                return
            self.said.append(said)

    def _known_line(self, answers: Answers) -> str | None:
        if len(self.said) < len(self.item.lines):
            return self.item.lines[len(self.said)]
        found = answers.of(self.line_key)
        return found and found[0]

    def turns(self, opening: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """The conversation as the character has it."""
        found = list(opening)
        for place, line in enumerate(self.lines):
            found.append(("user", line))
            if place < len(self.said):
                found.append(("assistant", self.said[place][0] or SILENCE))
        return found

    def reply(self, speaker: str) -> Reply:
        """The whole conversation."""
        texts, reasons = (tuple(part) for part in zip(*self.said, strict=True))
        return Reply(speaker, self.item, self.seed, tuple(self.lines), texts, reasons)


def ask_all(speakers: Sequence[Speaker], items: Sequence[Item], seeds: Sequence[int], folder: Path,
            sampling: SamplingParams = DEFAULTS, type: str = "", player: Player | None = None) -> Stream[dict[str, list[Reply]]]:
    """The replies of every speaker by its id, items in order, with each of the seeds. Replied for each that is new.

    `folder` keeps the answers. `type`: of all GGUF files; "": Q8_0 where all models can have it. `player` says what items with
    `turns` leave open. A speaker whose model cannot be used is Untested and not among the results; without the dense model, or
    the player, UserError is raised. Closing the generator stops it within a second; the same call goes on.
    """
    type = type or shared_type([one.model for one in speakers])
    answers, found = Answers(folder / ANSWERS), dict[str, list[Reply]]()
    for speaker in speakers:
        try:
            found[speaker.id] = yield from _ask(speaker, items, seeds, answers, replace(sampling, seed=0), type, player)
        except PlayerFault:
            raise
        except UserError as error:
            if speaker.id == DENSE:
                raise UserError(f"The dense model cannot be asked, so nothing can be compared with it: {error.sentence}",
                                error.hint) from error
            yield Untested(speaker.name, str(error))
    return found


def _ask(speaker: Speaker, items: Sequence[Item], seeds: Sequence[int], answers: Answers, sampling: SamplingParams,
         type: str, player: Player | None) -> Stream[list[Reply]]:
    identity = identify(speaker, sampling, type)
    talks = [_Talk(item, seed, digest(identity, str(seed)), player.identity(item) if player and item.turns else "")
             for seed in seeds for item in items]
    for talk in talks:
        talk.recall(answers)
    new, done = sum(one.left for one in talks), 0
    yield Stage(StageId.INTERVIEW, new, reused=not new, subject=speaker.name)
    with Interview(speaker.model, speaker.card, sampling, type) as interview:
        for talk in talks:
            if left := talk.left:
                yield from _finish(talk, interview, player, answers, Step(StageId.INTERVIEW, done, new, subject=speaker.name))
                reply, done = talk.reply(speaker.id), done + left
                yield Replied(speaker.id, talk.item.id, talk.item.kind, talk.seed, list(reply.lines), list(reply.answers),
                              list(reply.reasons))
    return [talk.reply(speaker.id) for talk in talks]


def _finish(talk: _Talk, interview: Interview, player: Player | None, answers: Answers, beat: Step) -> Stream[None]:
    """Ask what is still open of a conversation."""
    begun = len(talk.said)
    while talk.left:
        first = len(talk.said) == begun
        if len(talk.lines) == len(talk.said) < len(talk.item.lines):
            talk.hear(talk.item.lines[len(talk.said)])
        elif len(talk.lines) == len(talk.said):
            assert player
            line = yield from player.next_line(talk.item, talk.lines, [text for text, _ in talk.said], talk.seed, beat, first)
            answers.add(talk.line_key, (line, ""))
            talk.hear(line)
        talk.said.append((yield from interview.answer(talk.turns(interview.opening), beat, talk.seed, first)))
        answers.add(talk.key, talk.said[-1])
        yield Step(beat.stage, beat.done + len(talk.said) - begun, beat.total, subject=beat.subject)
