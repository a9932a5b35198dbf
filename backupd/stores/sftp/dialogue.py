"""Answers to a server that asks for the password in a dialogue, as PAM has it (RFC 4256)."""

from collections.abc import Sequence

from backupd.text import printable

_LONGEST_QUESTION = 60


class Answers:
    """Gives the password once, to one question whose answer is not shown, and nothing to any other question.

    What else is asked is added to `asked`, fit for a message.
    """

    def __init__(self, password: str, asked: list[str]) -> None:
        self._password = password
        self._asked = asked
        self._answered: str | None = None

    def __call__(self, title: str, instructions: str, questions: Sequence[tuple[str, bool]]) -> list[str]:  # noqa: ARG002 - paramiko's signature
        """Return an answer to each of `questions`."""
        if len(questions) == 1 and self._answered is None and not questions[0][1]:
            self._answered = questions[0][0]
            return [self._password]
        others = (text for text, _ in questions if text != self._answered)  # asking once more means that it was wrong
        self._asked.extend(printable(text.strip())[:_LONGEST_QUESTION] for text in others)
        return [""] * len(questions)
