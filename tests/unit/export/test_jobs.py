"""Jobs share a child process, and the one that kills it loses nothing but itself."""

from core.export.jobs import run_jobs


def run(*deeds, timeout_s=60.0):
    done, progress = {}, []
    jobs = [{"id": f"{number}-{deed}", "do": deed} for number, deed in enumerate(deeds)]
    failures = run_jobs(
        "tests.unit.export.jobs_child",
        {},
        jobs,
        step="Trying",
        timeout_s=timeout_s,
        on_done=done.__setitem__,
        on_event=lambda event: progress.append(event["id"]),
    )
    return done, {name: error.code for name, error in failures.items()}, progress


def test_jobs_share_one_process():
    done, failures, progress = run("work", "work", "work")
    assert list(done) == list(dict.fromkeys(progress)) == ["0-work", "1-work", "2-work"] and len(set(done.values())) == 1 and not failures
    assert len(progress) < 150, "three hundred messages were sent, and most of them are held back"


def test_a_crash_and_a_refusal_are_set_aside_and_the_rest_is_done():
    done, failures, _ = run("work", "crash", "work", "refuse", "work")
    assert list(done) == ["0-work", "2-work", "4-work"] and len(set(done.values())) == 3
    assert failures == {"1-crash": "CRASH", "3-refuse": "NO"}


def test_a_job_that_hangs_is_ended_and_the_next_one_is_done():
    done, failures, _ = run("hang", "work", timeout_s=8.0)
    assert list(done) == ["1-work"] and failures == {"0-hang": "TIMEOUT"}


def test_when_all_fail_all_are_named():
    done, failures, _ = run("crash", "refuse", "crash")
    assert not done and failures == {"0-crash": "CRASH", "1-refuse": "NO", "2-crash": "CRASH"}


def test_no_jobs_start_no_process():
    assert run() == ({}, {}, [])
