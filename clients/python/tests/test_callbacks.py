"""The callbacks, with frameworks that are made up of what the callbacks use of them."""

import importlib
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import types
import unittest
from unittest import mock

import failsafe_metrics as f
from failsafe_metrics import _reporter


class Kept:
    """A reporter that keeps what it is given."""

    def __init__(self):
        self.values = []

    def report(self, name, value, step=None):
        self.values.append((name, float(value), step))
        return True

    def of(self, name):
        return [(value, step) for (known, value, step) in self.values if known == name]


class Broken:
    """A reporter that fails."""

    def report(self, *_):
        raise RuntimeError("broken")


def frameworks(**modules):
    return mock.patch.dict(sys.modules, modules)


class Handle:
    def __init__(self, hooks, hook):
        self.hooks, self.hook = hooks, hook
        hooks.append(hook)

    def remove(self):
        self.hooks.remove(self.hook)


class Training(unittest.TestCase):
    def test_a_phase_is_its_number_and_another_name_is_none(self):
        kept = Kept()
        self.assertTrue(f.phase("evaluate", 7, kept))
        with self.assertLogs("failsafe_metrics"):
            self.assertFalse(f.phase("rest", 7, kept))
        self.assertEqual(kept.values, [("phase", 3.0, 7)])

    def test_names_become_names_of_metrics(self):
        self.assertEqual(f.metric_name("train loss (ema)"), "train_loss__ema_")
        self.assertEqual(f.metric_name("a/b.c-d_0"), "a/b.c-d_0")
        self.assertEqual(len(f.metric_name("x" * 100)), 64)
        self.assertEqual(f.metric_name(""), "_")

    def test_samples_are_spread_over_the_values(self):
        kept = Kept()
        self.assertEqual(f.samples("logits", range(1000), 3, kept, most=4), 4)
        self.assertEqual(kept.values, [("logits", value, 3) for value in (0.0, 250.0, 500.0, 750.0)])
        self.assertEqual(f.samples("logits", None, 3, kept), 0)

    def test_the_rank_is_that_of_the_launcher(self):
        self.assertEqual(_reporter.rank_of({"RANK": "3", "SLURM_PROCID": "5"}), "3")
        self.assertEqual(_reporter.rank_of({"SLURM_PROCID": "5"}), "5")
        self.assertIsNone(_reporter.rank_of({"RANK": ""}))


class Torch(unittest.TestCase):
    def setUp(self):
        self.torch = types.ModuleType("torch")
        self.torch.grad = True
        self.torch.is_grad_enabled = lambda: self.torch.grad
        self.torch.are_deterministic_algorithms_enabled = lambda: True
        self.torch.is_autocast_enabled = lambda: False

    def test_loss_steps_and_flags_are_reported_until_the_hooks_are_removed(self):
        from failsafe_metrics.torch import watch

        forward, after = [], []
        criterion, optimizer = mock.Mock(), mock.Mock(param_groups=[{"lr": 0.5}])
        criterion.register_forward_hook = lambda hook: Handle(forward, hook)
        optimizer.register_step_post_hook = lambda hook: Handle(after, hook)
        kept = Kept()
        with frameworks(torch=self.torch):
            watcher = watch(criterion=criterion, optimizer=optimizer, reporter=kept)
            forward[0](criterion, (), 2.5)
            after[0](optimizer, (), {})
            forward[0](criterion, (), float("nan"))
            self.torch.grad = False
            forward[0](criterion, (), 3.0)
            # A loss of several elements is no number: it breaks nothing.
            forward[0](criterion, (), "several")
        self.assertEqual(kept.of("phase"), [(2.0, None)])
        self.assertEqual(kept.of("flag.deterministic"), [(1.0, None)])
        self.assertEqual(kept.of("flag.autocast"), [(0.0, None)])
        self.assertEqual(kept.of("loss")[0], (2.5, 0))
        self.assertTrue(math.isnan(kept.of("loss")[1][0]) and kept.of("loss")[1][1] == 1)
        self.assertEqual(kept.of("eval/loss"), [(3.0, 1)])
        self.assertEqual((kept.of("step"), kept.of("lr")), ([(1.0, 1)], [(0.5, 1)]))
        watcher.remove()
        self.assertEqual((forward, after), ([], []))

    def test_neither_a_broken_reporter_nor_an_old_version_breaks_training(self):
        from failsafe_metrics.torch import watch

        criterion = mock.Mock()
        criterion.register_forward_hook = mock.Mock(side_effect=AttributeError)
        with frameworks(torch=types.ModuleType("torch")):
            watch(criterion=criterion, optimizer=object(), reporter=Kept())
        with frameworks(torch=self.torch):
            from failsafe_metrics.torch import Watcher

            Watcher(Broken()).on_loss(None, (), 1.0)
            Watcher(Broken()).on_step(None)


class Lightning(unittest.TestCase):
    def test_a_fit_reports_loss_phases_metrics_and_checkpoints(self):
        class Callback:
            pass

        package, pytorch = types.ModuleType("lightning"), types.ModuleType("lightning.pytorch")
        pytorch.Callback = Callback
        package.pytorch = pytorch
        kept = Kept()
        with frameworks(**{"lightning": package, "lightning.pytorch": pytorch}):
            callback = importlib.import_module("failsafe_metrics.lightning").callback(kept)
        self.assertIsInstance(callback, Callback)
        trainer = mock.Mock(global_step=4, precision="bf16-mixed", sanity_checking=True)
        trainer.optimizers = [mock.Mock(param_groups=[{"lr": 0.1}])]
        trainer.callback_metrics = {"val loss": 1.5}
        callback.on_validation_start(trainer, None)
        callback.on_validation_end(trainer, None)
        self.assertEqual(kept.values, [], "the sanity check is no evaluation")
        trainer.sanity_checking = False
        callback.on_train_start(trainer, None)
        callback.on_train_batch_end(trainer, None, {"loss": 2.5}, None, 0)
        callback.on_train_batch_end(trainer, None, None, None, 1)
        callback.on_validation_start(trainer, None)
        callback.on_validation_end(trainer, None)
        callback.on_save_checkpoint(trainer, None, {})
        self.assertEqual([value for value, _ in kept.of("phase")], [2.0, 3.0, 2.0])
        self.assertEqual((kept.of("loss"), kept.of("val_loss")), ([(2.5, 4)], [(1.5, 4)]))
        self.assertEqual(kept.of("flag.mixed-precision"), [(1.0, None)])
        self.assertEqual(kept.of("checkpoint.step"), [(4.0, 4)])


class Transformers(unittest.TestCase):
    def test_a_training_reports_logs_phases_flags_and_checkpoints(self):
        class TrainerCallback:
            pass

        package = types.ModuleType("transformers")
        package.TrainerCallback = TrainerCallback
        kept = Kept()
        with frameworks(transformers=package):
            callback = importlib.import_module("failsafe_metrics.transformers").callback(kept)
        self.assertIsInstance(callback, TrainerCallback)
        args, state = types.SimpleNamespace(bf16=True, fp16=False, tf32=None), types.SimpleNamespace(global_step=9)
        callback.on_train_begin(args, state, None, model=None)
        callback.on_step_end(args, state, None)
        callback.on_log(args, state, None, logs={"loss": 2.5, "eval loss": 1.0, "note": "text"})
        callback.on_prediction_step(args, state, None)
        callback.on_prediction_step(args, state, None)
        callback.on_evaluate(args, state, None)
        callback.on_save(args, state, None)
        self.assertEqual([value for value, _ in kept.of("phase")], [2.0, 3.0, 2.0])
        self.assertEqual((kept.of("flag.bf16"), kept.of("flag.fp16"), kept.of("flag.tf32")), ([(1, None)], [(0, None)], []))
        self.assertEqual((kept.of("loss"), kept.of("eval_loss"), kept.of("note")), ([(2.5, 9)], [(1.0, 9)], []))
        self.assertEqual(kept.of("checkpoint.step"), [(9.0, 9)])


class OnGpu:
    """A scalar on a GPU: reading it waits until the test lets it."""

    is_cuda = True

    def __init__(self, ready):
        self.ready = ready

    def detach(self):
        return self

    def clone(self):
        return OnGpu(self.ready)

    def __float__(self):
        self.ready.wait(20)
        return 2.5


class Sending(unittest.TestCase):
    def test_a_value_on_a_gpu_is_read_by_the_sending_thread(self):
        with tempfile.TemporaryDirectory() as folder:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(folder + "/m.stream")
            listener.listen()
            got = []

            def daemon():
                connection, _ = listener.accept()
                got.append(connection.recv(4096).decode())
                connection.sendall(b"accepted 1 refused 0\n")

            thread = threading.Thread(target=daemon)
            thread.start()
            ready = threading.Event()
            reporter = f.Reporter(folder + "/m", rank=0)
            self.assertTrue(reporter.report("loss", OnGpu(ready), 7), "it does not wait")
            self.assertEqual(got, [])
            ready.set()
            self.assertEqual(reporter.flush(20), (1, 0, None))
            thread.join()
            listener.close()
            self.assertEqual(got, ["!rank 0\nloss 2.5 7\n?\n"])

    def test_tensors_that_wait_are_bounded(self):
        ready = threading.Event()
        reporter = f.Reporter("/nonexistent/socket", rank=0)
        with mock.patch.object(_reporter, "DEFERRED", 3):
            queued = [reporter.report("loss", OnGpu(ready)) for _ in range(5)]
        self.assertEqual(queued, [True, True, True, False, False])
        ready.set()


TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_RUN_ID": "pretrain",
}


class Torchrun(unittest.TestCase):
    def test_the_job_is_read_from_the_environment_when_it_is_asked_for(self):
        torchrun = importlib.import_module("failsafe_metrics.torchrun")
        kept = Kept()
        with mock.patch.dict("os.environ", {}, clear=True):
            self.assertIsNone(torchrun.job())
            self.assertIsNone(torchrun.announce(kept))
        with mock.patch.dict("os.environ", TORCHRUN, clear=True):
            found = torchrun.announce(kept)
            self.assertEqual(f.Reporter("/nonexistent/socket")._hello, ["!rank 5"])
        self.assertEqual(found, torchrun.Job(5, 8, 1, 4, 2, "pretrain"))
        self.assertEqual(kept.values, [("job.restarts", 2.0, None), ("job.world_size", 8.0, None)])

    def test_an_environment_that_is_not_torchruns_is_no_job_and_breaks_nothing(self):
        torchrun = importlib.import_module("failsafe_metrics.torchrun")
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"):
            self.assertIsNone(torchrun.job({**TORCHRUN, name: "two"}))
            self.assertIsNone(torchrun.job({key: value for key, value in TORCHRUN.items() if key != name}))
        self.assertIsNone(torchrun.announce(Broken(), TORCHRUN))


class HangingDaemon(unittest.TestCase):
    """A daemon that takes connections and then does nothing more, and one that does not even take them."""

    def hanging(self, folder, accepts):
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(folder + "/m.stream")
        listener.listen(0)
        if not accepts:
            # The queue of connections is full: a further `connect` waits.
            for _ in range(2):
                waits = socket.socket(socket.AF_UNIX)
                self.addCleanup(waits.close)
                waits.setblocking(False)
                try:
                    waits.connect(folder + "/m.stream")
                except BlockingIOError:
                    break
        return listener

    def test_a_training_goes_on_and_its_values_are_counted(self):
        for accepts in (True, False):
            with tempfile.TemporaryDirectory() as folder, mock.patch.object(_reporter, "BUFFER", 1_000):
                listener = self.hanging(folder, accepts)
                reporter = f.Reporter(folder + "/m", rank=0)
                queued = 0
                for step in range(20_000):
                    queued += reporter.report("loss", 1.0, step)
                f.phase("evaluate", 1, reporter)
                f.samples("logits", range(1_000), 1, reporter)
                # Nobody has answered, and the loop has ended.
                self.assertEqual((reporter.accepted, reporter.refused), (0, 0))
                self.assertGreaterEqual(reporter.dropped, 20_000 - queued)
                self.assertGreater(reporter.dropped, 0)
                self.assertEqual(reporter.flush(0.01)[0], 0)
                listener.close()

    def test_a_process_ends_while_the_daemon_hangs(self):
        program = (
            "import failsafe_metrics as f\n"
            "for step in range(1000):\n"
            "    f.report('loss', 1.0, step)\n"
            "print('trained', flush=True)\n"
        )
        for accepts in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                self.hanging(folder, accepts)
                environment = {**os.environ, "FAILSAFE_METRICS_SOCKET": folder + "/m"}
                ended = subprocess.run(
                    [sys.executable, "-S", "-c", program], env=environment, capture_output=True, timeout=120
                )
                self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, b"trained\n", b""))


if __name__ == "__main__":
    unittest.main()
