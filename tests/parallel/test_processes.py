"""wbc_jax.parallel.processes in a single process; test_multihost.py starts several."""

from wbc_jax.parallel import processes


def test_a_single_process_waits_for_nobody(capsys):
    done = []
    processes.run_on_first(lambda: done.append(1))
    processes.barrier()
    assert done == [1] and processes.is_first() and not processes.several()
    processes.print0("text")
    assert capsys.readouterr().out == "text\n"
