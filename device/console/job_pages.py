"""The pages of what was started: a question, what is waited for, how it ended."""

from device.console.job import Job
from device.console.render import page, refused_page
from device.local_web import Reply


def job_page(job: Job | None) -> Reply:
    """What was started: a question, what is waited for, or how it ended."""
    if job is None:
        return page("nothing.html")
    question = job.question
    if question is not None:
        return page("question.html", id=question.id, task=question.task, window=job.window, said=job.said)
    if not job.ended:
        return page("waiting.html", id=job.id, words=job.waiting or "Broker and worker are asked …", code=job.compare)
    if job.error is not None:
        return refused_page(job.error)
    return page("done.html", lines=job.result or (), said=job.said, file=job.file, id=job.id)
