"""What the model can do at this moment of the run: its held-out loss and its answers."""

from typing import Any

from kit import backend
from kit.data import Question
from kit.options import METHODS
from kit.run.layout import BEGUN
from kit.run.record import Answer
from kit.run.session import Session

NO_ANSWER = "(no answer: memory ran out)"
NO_ROOM = "(no answer: the prompt takes all positions of the model)"


def held_out_loss(session: Session, trainer: Any, stage: str) -> float | None:
    """In nats a token; None where no rows are held out. stage: the name of its progress bar."""
    if not len(session.data.held_out):
        return None

    def on_batch(number: int, batches: int) -> None:
        session.on_progress(stage, number, batches, "")

    return backend.held_out_loss(trainer, session.data.held_out, on_batch)


def answers(session: Session) -> tuple[Answer, ...]:
    """To the prompts of the run, or to the first held-out questions. Too little memory for them stops nothing: the
    questions it does not suffice for have NO_ANSWER, of 0 tokens; those that leave no position free, NO_ROOM."""
    run, chat = session.run, session.chat
    own = [Question(text, chat.prompt_ids([{"role": "user", "content": text}])) for text in run.prompts]
    questions = own or session.data.questions
    given: list[Answer] = []
    ran_out = False
    try:
        with backend.answering(session.loaded):
            for number, question in enumerate(questions, start=1):
                given.append(_answer(session, question))
                session.on_progress("answers", number, len(questions), "")
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        ran_out = True
    if ran_out:  # outside of `except`: the error holds on to the tensors of the failed try
        backend.free_memory()
        missing = [Answer(question.text, NO_ANSWER, 0, 0.0) for question in questions[len(given) :]]
        text = f"memory ran out while answering: {len(missing)} of {len(questions)} questions have no answer"
        session.journal.event("out-of-memory", text, step=session.state.step)
        given += missing
    return tuple(given)


def _answer(session: Session, question: Question) -> Answer:
    run, context_tokens = session.run, backend.context_tokens(session.loaded)
    virtual_tokens = run.virtual_tokens if METHODS[run.method].learns_virtual_tokens else 0
    room_tokens = context_tokens - virtual_tokens - len(question.ids)
    if room_tokens < 1:
        text = f"no answer to a prompt of {len(question.ids):,} tokens: the model has {context_tokens:,} positions"
        session.journal.event("no-room-to-answer", text, step=session.state.step)
        return Answer(question.text, NO_ROOM, 0, 0.0)
    text, tokens, seconds = backend.answer(session.loaded, question.ids, min(run.sample_tokens, room_tokens))
    return Answer(question.text, text, tokens, round(tokens / seconds, 1))


def of_the_untuned(session: Session, trainer: Any) -> tuple[float | None, tuple[Answer, ...]]:
    """Loss and answers of the untuned model: measured once, when the run begins."""
    there = session.folder.read_json(BEGUN)
    if there is None:
        with backend.without_virtual_tokens(session.loaded):
            given = [vars(answer) for answer in answers(session)]
            there = {"loss": held_out_loss(session, trainer, "base model"), "answers": given}
        session.folder.write_json(BEGUN, there)
    return there["loss"], tuple(Answer(**answer) for answer in there["answers"])
