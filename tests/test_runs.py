"""Runs that stop and go on, bad checkpoints, folders that cannot be written, result files."""

import json
import re
import signal
import subprocess
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import helpers
from dgm import runs
from dgm.data import minibatches
from dgm.device import hardware_name, seed_everything

TOTAL = 8


def train(
    path,
    total=TOTAL,
    stop_after=None,
    bad_at=None,
    break_weights_at=None,
    settings=None,
    width=4,
    seed=3,
    **options,
):
    """Run a whole small EBM training with everything a notebook's has; return its final state.

    It can stop after an update as by Ctrl-C, and its loss or weights can go bad at one.
    """
    generator = seed_everything(seed)
    images = torch.rand(64, 1, 28, 28, generator=generator)
    batches = minibatches(images, torch.zeros(64).long(), 8, generator)
    model = helpers.EnergyNetwork(width)
    ema, buffer = helpers.ema_of(model, 0.9), helpers.ReplayBuffer(32, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = {"loss": [], "e_plus": []}
    state = {
        "model": model,
        "ema": ema,
        "optimizer": optimizer,
        "generator": generator,
        "buffer": buffer,
    }
    options = {"lines": 4, "check_every": 3, **options}
    settings = settings or {"K": 2}
    for update in runs.training_steps(total, path, settings, history, state, **options):
        data, _ = next(batches)
        samples = helpers.langevin_dynamics(model, buffer.sample(8), 2, generator=generator)
        buffer.write_back(samples)
        loss, e_plus, _ = helpers.contrastive_divergence_loss(model, data, samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        if update == bad_at:
            loss = loss * torch.nan
        if update == break_weights_at:
            next(model.parameters()).data.fill_(torch.inf)
        history["loss"].append(loss.detach())
        history["e_plus"].append(e_plus)
        if update == stop_after:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
    return {
        "weights": model.state_dict(),
        "average": ema.state_dict(),
        "optimizer": optimizer.state_dict()["state"],
        "chains": buffer.chains,
        "random": generator.get_state(),
        "history": history,
    }


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The final state of an uninterrupted run."""
    return train(tmp_path_factory.mktemp("whole") / "run.pt")


@pytest.fixture
def finished(path):
    """The checkpoint of a finished run."""
    train(path)
    return path


# --------------------------------------------------------------------------- stop and go on


@pytest.mark.parametrize("stop", [0, 4])
def test_ctrl_c_says_where_the_run_stopped(stop, path):
    with pytest.raises(KeyboardInterrupt, match=f"Stopped at update {stop + 1} of 8.*run again"):
        train(path, stop_after=stop)


@pytest.fixture
def stopped_twice(path):
    for stop in (0, 4):
        with pytest.raises(KeyboardInterrupt):
            train(path, stop_after=stop)
    return path


def test_an_uninterrupted_run_has_a_history_of_every_update(whole):
    assert len(whole["history"]["loss"]) == TOTAL


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(stopped_twice, whole):
    assert equal(whole, train(stopped_twice))


@pytest.fixture
def reports(monkeypatch):
    """What is reported to dgm.runner."""
    found = []
    monkeypatch.setattr(runs, "report", lambda **message: found.append(message))
    return found


def test_a_resumed_run_says_so_to_the_runner(finished, reports):
    train(finished)
    assert reports == [{"note": f"Resumed {finished} at update 8 of 8: nothing left to train."}]


@pytest.mark.parametrize("key, value", [("preset", "smoke"), ("data", "MNIST")])
def test_an_opened_run_tells_the_runner_what_it_is(key, value, tmp_cwd, reports):
    runs.open_run("EBM", "smoke")
    assert reports[0]["run"][key] == value


def test_an_opened_run_tells_the_runner_where_its_figures_go(tmp_cwd, reports):
    run = runs.open_run("EBM", "smoke")
    assert Path(reports[0]["run"]["figures"]) == tmp_cwd / run.figures


def test_a_resumed_run_says_so(stopped_twice, capsys):
    train(stopped_twice)
    assert "Resumed" in capsys.readouterr().out


def test_a_finished_run_is_not_trained_again(finished, whole):
    assert equal(whole, train(finished))


def test_a_finished_run_says_so(finished, capsys):
    train(finished)
    assert "nothing left to train" in capsys.readouterr().out


def test_interrupting_restores_the_usual_ctrl_c(path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(path, stop_after=2)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_first_ctrl_c_sets_a_flag():
    with runs.deferred_interrupt() as flag:
        signal.raise_signal(signal.SIGINT)
        assert flag.is_set()


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), runs.deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")


@pytest.fixture
def killed(path):
    """A run that saved after every update and ended without a save, here by NaN at the sixth."""
    with pytest.raises(FloatingPointError):
        train(path, bad_at=5, save_seconds=-1)
    return path


def test_a_killed_run_keeps_its_last_save(killed):
    assert runs.load_checkpoint(killed, "run")["update"] == 5


def test_a_killed_run_goes_on_from_its_last_save(killed, whole):
    assert equal(whole, train(killed))


def test_progress_comes_in_as_many_lines_as_asked(path, capsys):
    train(path)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("update") for line in lines) == 4


@pytest.mark.parametrize("mean", [r"^update 8/8  loss -?\d", r"  e_plus -?\d"])
def test_progress_lines_tell_the_means(mean, path, capsys):
    train(path)
    assert re.search(mean, capsys.readouterr().out.splitlines()[-1])


# -------------------------------------------------------------------------- what goes wrong


@pytest.fixture
def stopped(path):
    """The checkpoint of a run stopped after two updates."""
    with pytest.raises(KeyboardInterrupt):
        train(path, stop_after=1)
    return path


def test_nan_stops_training_and_says_what_to_do(stopped):
    message = r"loss is nan at update 5.*last good state is in.*lower learning rate"
    with pytest.raises(FloatingPointError, match=message):
        train(stopped, bad_at=4)


def test_nan_leaves_the_last_good_state_as_it_was(stopped):
    good = stopped.read_bytes()
    with pytest.raises(FloatingPointError):
        train(stopped, bad_at=4)
    assert stopped.read_bytes() == good


def test_nan_before_the_first_save_says_that_nothing_is_kept(path):
    with pytest.raises(FloatingPointError, match="No state had been saved"):
        train(path, bad_at=0)


def test_nan_between_two_looks_is_found(path):
    # looked at after updates 3, 6 and at lines
    with pytest.raises(FloatingPointError, match="loss is nan at update 5"):
        train(path, bad_at=4, total=12)


def test_weights_that_went_infinite_are_told(path):
    with pytest.raises(FloatingPointError, match="weight of model went non-finite"):
        train(path, break_weights_at=TOTAL - 1)


def test_weights_that_went_infinite_are_not_saved(path):
    with pytest.raises(FloatingPointError):
        train(path, break_weights_at=TOTAL - 1)
    assert not path.exists()


def test_another_seed_is_another_run(finished):
    message = "differs in seed of the generator: delete or rename"
    with pytest.raises(ValueError, match=message):
        train(finished, seed=4)


def test_a_run_with_other_settings_is_not_mixed_in(finished):
    with pytest.raises(ValueError, match="differs in K: delete or rename"):
        train(finished, settings={"K": 3})


def test_a_run_of_another_network_is_not_mixed_in(finished):
    with pytest.raises(ValueError, match=r"run\.pt does not fit this run"):
        train(finished, width=8)


def test_forgetting_the_history_is_noticed(path):
    with pytest.raises(ValueError, match="append one per update"):
        for _ in runs.training_steps(2, path, {}, {"loss": []}, {}):
            pass


# -------------------------------------------------------------------------------------- files


def test_saving_is_all_or_nothing(path, monkeypatch):
    def half(contents, file):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    runs.save_atomically({"kind": "run", "value": 1}, path)
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        runs.save_atomically({"kind": "run", "value": 2}, path)
    assert runs.load_checkpoint(path, "run")["value"] == 1


@pytest.fixture
def result(tmp_path):
    """A result file, in a folder that had to be made for it."""
    file = tmp_path / "folder" / "result.json"
    runs.write_json({"value": 1.5}, file)
    return file


def test_results_that_are_no_numbers_are_refused(result):
    with pytest.raises(ValueError, match="JSON compliant"):
        runs.write_json({"value": float("nan")}, result)


def test_refused_results_leave_the_file_as_it_was(result):
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json({"value": float("nan")}, result)
    assert json.loads(result.read_text()) == {"value": 1.5}


def test_half_written_checkpoints_are_named(finished):
    finished.write_bytes(finished.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"run\.pt cannot be read.*half-written"):
        train(finished)


def test_pickled_objects_are_not_executed(path):
    torch.save(helpers.EnergyNetwork(4), path)
    with pytest.raises(ValueError, match="cannot be read"):
        train(path)


def test_foreign_checkpoints_are_refused(path):
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="not a run checkpoint"):
        train(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*pass one of these names: none"):
        helpers.load_pretrained("EBM", "cpu", tmp_path)


@pytest.fixture
def module_in(tmp_path, monkeypatch):
    """A folder dgm/ in which dgm/runs.py is made to lie."""
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "dgm" / "runs.py"))
    return tmp_path.resolve()


def test_checkpoints_lie_in_the_repository(module_in):
    (module_in / "checkpoints").mkdir()
    assert runs.checkpoints_folder() == module_in / "checkpoints"


def test_checkpoints_of_an_installed_package_lie_in_it(module_in):
    assert runs.checkpoints_folder() == module_in / "dgm" / "checkpoints"


# ---------------------------------------------------------------------------- finished runs


def small_run(preset="smoke"):
    run = runs.open_run("EBM", preset)
    train(run.checkpoint)
    return run


@pytest.fixture
def run(tmp_cwd):
    """A finished smoke run."""
    return small_run()


@pytest.fixture
def saved(run):
    """The network that a finished run saved, with 1,500 chains."""
    model = helpers.EnergyNetwork(4)
    chains = torch.rand(1500, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    runs.save_pretrained(run, model, chains=chains)
    return model


@pytest.fixture
def record(saved, run):
    return helpers.load_pretrained("EBM", "cpu", run.folder)[1]


def test_pretrained_files_hold_the_weights(saved, run, generator):
    loaded, _ = helpers.load_pretrained("EBM", "cpu", run.folder)
    x = torch.rand(3, 1, 28, 28, generator=generator)
    assert torch.allclose(loaded(x), saved(x), atol=2e-3)


def test_pretrained_files_hold_a_thousand_chains(record):
    assert record["chains"].shape == (1000, 1, 28, 28)


def test_pretrained_files_hold_chains_as_bytes(record):
    assert record["chains"].dtype == torch.uint8


def test_pretrained_files_hold_the_preset(record):
    assert record["preset"] == "smoke"


def test_pretrained_files_hold_the_number_of_updates(record):
    assert record["updates"] == TOTAL


def test_pretrained_files_hold_the_history(record):
    assert len(record["history"]["loss"]) == TOTAL


def test_a_records_label_names_preset_minutes_and_hardware(record):
    hardware = re.escape(record["hardware"])
    assert re.fullmatch(rf"EBM, preset smoke, \d+ minutes on {hardware}", record["label"])


def test_a_records_digest_changes_with_the_file(record, run):
    runs.save_pretrained(run, helpers.EnergyNetwork(8))
    _, other = runs.load_record("EBM", "cpu", run.folder)
    assert record["digest"] != other["digest"]


def test_a_smoke_run_does_not_touch_the_committed_weights(saved):
    assert not runs.CHECKPOINTS.exists()


def test_a_full_run_writes_the_committed_weights(tmp_cwd):
    runs.save_pretrained(small_run("full"), helpers.EnergyNetwork(4))
    assert (runs.CHECKPOINTS / "EBM.pt").exists()


def test_provenance_is_how_a_network_was_trained(record):
    assert list(runs.provenance(record)) == ["preset", "updates", "minutes", "hardware"]


@pytest.mark.parametrize("change", [{"network_settings": {"width": 8}}, {"network": "Transformer"}])
def test_weights_that_do_not_fit_are_refused(change, saved, run):
    path = run.folder / "EBM.pt"
    torch.save({**torch.load(path), **change}, path)
    with pytest.raises(ValueError, match="does not fit"):
        helpers.load_pretrained("EBM", "cpu", run.folder)


def test_a_partner_of_the_same_run_comes_first(saved, run):
    runs.CHECKPOINTS.mkdir()
    (runs.CHECKPOINTS / "EBM.pt").touch()
    assert runs.partner_folder("EBM", run) == run.folder


def test_a_partner_is_else_the_committed_one(tmp_cwd):
    runs.CHECKPOINTS.mkdir()
    (runs.CHECKPOINTS / "EBM.pt").touch()
    run = runs.open_run("score-based-model", "smoke")
    assert runs.partner_folder("EBM", run) == runs.CHECKPOINTS


def test_there_may_be_no_partner(saved, run):
    assert runs.partner_folder("nobody", run) is None


# ----------------------------------------------------------------------- presets and folders


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        pytest.param({"preset": "full"}, "assets", id="full"),
        pytest.param({"preset": "auto"}, "runs/quick/assets", id="on a CPU"),
        pytest.param({"preset": "auto", "device": "cuda"}, "assets", id="on a GPU"),
        pytest.param({"preset": "full", "pretrained": True}, "runs/demo-full/assets", id="demo"),
        pytest.param(
            {"preset": "full", "data": "UCI digits"}, "runs/full-uci-digits/assets", id="other data"
        ),
    ],
)
def test_full_runs_on_mnist_draw_into_assets_all_others_below_runs(options, folder, tmp_cwd):
    assert runs.open_run("EBM", **options).figures == Path(folder)


@pytest.fixture(params=["PUBLISH=1", "publish=True"])
def published(request, tmp_cwd, monkeypatch):
    """A run that publishes, as the environment says so or the argument."""
    if request.param == "publish=True":
        return runs.open_run("EBM", "auto", publish=True)
    monkeypatch.setenv("PUBLISH", "1")
    return runs.open_run("EBM", "auto")


def test_publishing_takes_the_committed_weights(published):
    assert published.pretrained


def test_publishing_is_a_full_run(published):
    assert published.preset == "full"


def test_publishing_draws_into_assets(published):
    assert published.figures == Path("assets")


def test_the_argument_goes_before_the_environment(tmp_cwd, monkeypatch):
    monkeypatch.setenv("PUBLISH", "1")
    assert not runs.open_run("EBM", "quick", publish=False).pretrained


def test_unknown_presets_are_refused(tmp_cwd):
    with pytest.raises(ValueError, match="preset must be auto, smoke, quick or full, not 'fast'"):
        runs.open_run("EBM", "fast")


def test_unknown_presets_make_no_folder(tmp_cwd):
    with pytest.raises(ValueError, match="preset must be"):
        runs.open_run("EBM", "fast")
    assert not Path("runs").exists()


def test_unwritable_folders_are_found_before_training(tmp_cwd):
    Path("assets").write_text("a file where a folder belongs")
    with pytest.raises(OSError, match=r"cannot write to assets/.*nothing was lost"):
        runs.open_run("EBM", "full")


def test_read_only_folders_are_found_before_training(tmp_cwd, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OSError, match="cannot write to runs/full/: Permission denied"):
        runs.open_run("EBM", "full")


# ------------------------------------------------------------------------------- result files


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(runs, "git_commit", lambda: "abc1234+")
    return runs.made_by(command="make bench")


def test_a_result_begins_with_its_format(made):
    assert next(iter(made.items())) == ("format", 2)


def test_a_result_tells_what_made_it(made):
    assert made["command"] == "make bench"


def test_a_result_tells_the_commit(made):
    assert made["commit"] == "abc1234+"


def test_a_result_tells_the_version_of_torch(made):
    assert made["torch"] == torch.__version__


def test_a_result_tells_the_hardware(made):
    assert made["hardware"] == hardware_name()


def test_a_result_tells_the_day(made):
    assert abs(date.fromisoformat(made["date"]) - date.today()).days <= 1  # midnight may pass


@pytest.fixture
def git(monkeypatch):
    """Let git answer: the commit's name, and whether files differ from it."""

    def answer(name, differ):
        def run(command, **_):
            if "rev-parse" in command:
                return SimpleNamespace(stdout=f"{name}\n", returncode=0)
            return SimpleNamespace(stdout="", returncode=int(differ))

        monkeypatch.setattr(subprocess, "run", run)

    return answer


def test_a_commit_has_its_short_name(git):
    git("abc1234", differ=False)
    assert runs.git_commit() == "abc1234"


def test_a_commit_with_changed_files_is_marked(git):
    git("abc1234", differ=True)
    assert runs.git_commit() == "abc1234+"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(FileNotFoundError("git"), id="no git"),
        pytest.param(subprocess.CalledProcessError(128, "git"), id="no repository"),
    ],
)
def test_outside_git_there_is_no_commit(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert runs.git_commit() is None


@pytest.fixture
def results(tmp_cwd):
    """What a notebook's run wrote."""
    run = runs.open_run("EBM", "smoke")
    runs.save_results(run, 7, frechet_distance={"replay_buffer": 1.5})
    return json.loads((run.figures / "results" / "EBM.json").read_text())


def test_a_notebooks_results_begin_with_their_format(results):
    assert next(iter(results.items())) == ("format", 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("notebook", "EBM.ipynb"),
        ("preset", "smoke"),
        ("seed", 7),
        ("frechet_distance", {"replay_buffer": 1.5}),
    ],
)
def test_a_notebooks_results_tell(key, value, results):
    assert results[key] == value


def test_a_notebooks_results_tell_its_peak_memory(results):
    assert "ram" in results["peak_memory_gb"]
