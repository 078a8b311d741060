"""Runs that stop and go on, checkpoints that are not what they should be, folders that cannot be written."""

import json
import platform
import signal
from pathlib import Path

import pytest
import torch

import helpers

TOTAL = 8


def train(path, total=TOTAL, stop_after=None, bad_at=None, break_weights_at=None, settings=None, width=4, seed=3, **options):
    """A whole small EBM training run with everything a notebook's has; returns its final state."""
    generator = helpers.seed_everything(seed)
    images = torch.rand(64, 1, 28, 28, generator=generator)
    batches = helpers.minibatches(images, torch.zeros(64).long(), 8, generator)
    model = helpers.EnergyNetwork(width)
    ema, buffer = helpers.ema_of(model, 0.9), helpers.ReplayBuffer(32, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = {"loss": [], "e_plus": []}
    state = {"model": model, "ema": ema, "optimizer": optimizer, "generator": generator, "buffer": buffer}
    options = {"lines": 4, "check_every": 3, **options}
    for update in helpers.training_steps(total, path, settings or {"K": 2}, history, state, **options):
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
    return {"weights": model.state_dict(), "average": ema.state_dict(), "optimizer": optimizer.state_dict()["state"],
            "chains": buffer.chains, "random": generator.get_state(), "history": history}  # fmt: skip


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(tmp_path, capsys):
    whole = train(tmp_path / "whole.pt")
    for stop in (0, 4):
        with pytest.raises(KeyboardInterrupt, match=f"Stopped at update {stop + 1} of 8.*run again"):
            train(tmp_path / "parts.pt", stop_after=stop)
    parts = train(tmp_path / "parts.pt")
    assert "Resumed" in capsys.readouterr().out
    assert len(whole["history"]["loss"]) == TOTAL and equal(whole, parts)
    assert equal(whole, train(tmp_path / "parts.pt"))  # finished: nothing is trained again
    assert "nothing left to train" in capsys.readouterr().out


def test_interrupting_restores_the_usual_ctrl_c(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run.pt", stop_after=2)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), helpers.deferred_interrupt() as flag:
        signal.raise_signal(signal.SIGINT)
        assert flag.is_set()
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")


def test_nan_stops_training_and_keeps_the_last_good_state(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(path, stop_after=1)
    good = path.read_bytes()
    with pytest.raises(FloatingPointError, match="loss is nan at update 5.*last good state is in.*lower learning rate"):
        train(path, bad_at=4)
    assert path.read_bytes() == good
    with pytest.raises(FloatingPointError, match="No state had been saved"):
        train(tmp_path / "new.pt", bad_at=0)


def test_a_killed_run_goes_on_from_its_last_save(tmp_path, capsys):
    whole = train(tmp_path / "whole.pt")
    with pytest.raises(FloatingPointError):  # any end without a save: here by NaN at the sixth update
        train(tmp_path / "killed.pt", bad_at=5, save_seconds=-1)
    assert helpers.load_checkpoint(tmp_path / "killed.pt", "run")["update"] == 5
    assert equal(whole, train(tmp_path / "killed.pt"))


def test_nan_between_two_looks_is_found(tmp_path):
    with pytest.raises(FloatingPointError, match="loss is nan at update 5"):  # looked at after updates 3, 6 and at lines
        path = tmp_path / "run.pt"
        train(path, bad_at=4, total=12)


def test_another_seed_is_another_run(tmp_path):
    train(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="differs in seed of the generator: delete or rename"):
        train(tmp_path / "run.pt", seed=4)


def test_weights_that_went_infinite_are_not_saved(tmp_path):
    with pytest.raises(FloatingPointError, match="weight of model went non-finite"):
        train(tmp_path / "run.pt", break_weights_at=TOTAL - 1)
    assert not (tmp_path / "run.pt").exists()


def test_a_run_with_other_settings_is_not_mixed_in(tmp_path):
    train(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="differs in K: delete or rename"):
        train(tmp_path / "run.pt", settings={"K": 3})
    with pytest.raises(ValueError, match=r"run\.pt does not fit this run"):
        train(tmp_path / "run.pt", width=8)


def test_progress_lines_tell_the_means(tmp_path, capsys):
    train(tmp_path / "run.pt")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("update")]
    assert len(lines) == 4 and lines[-1].startswith("update 8/8  loss ") and "e_plus" in lines[-1]


def test_forgetting_the_history_is_noticed(tmp_path):
    with pytest.raises(ValueError, match="append one an update"):
        for _ in helpers.training_steps(2, tmp_path / "run.pt", {}, {"loss": []}, {}):
            pass


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file.pt"
    helpers.save_atomically({"kind": "run", "value": 1}, path)
    monkeypatch.setattr(torch, "save", lambda contents, file: Path(file).write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        helpers.save_atomically({"kind": "run", "value": 2}, path)
    assert helpers.load_checkpoint(path, "run")["value"] == 1


def test_results_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "result.json"
    helpers.write_json({"value": 1.5}, path)
    with pytest.raises(ValueError, match="JSON compliant"):
        helpers.write_json({"value": float("nan")}, path)
    assert json.loads(path.read_text()) == {"value": 1.5}


def test_bad_checkpoints_are_named(tmp_path):
    path = tmp_path / "run.pt"
    train(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"run\.pt cannot be read.*half-written"):
        train(path)
    torch.save(helpers.EnergyNetwork(4), path)  # a pickled object of somebody's: never executed
    with pytest.raises(ValueError, match="cannot be read"):
        train(path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="not a run checkpoint"):
        train(path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        helpers.load_pretrained("EBM", "cpu", tmp_path)


def small_run(preset="smoke"):
    run = helpers.open_run("EBM", preset)
    train(run.checkpoint)
    return run


def test_pretrained_files_hold_weights_history_and_chains(tmp_cwd):
    run, model = small_run(), helpers.EnergyNetwork(4)
    helpers.save_pretrained(run, model, chains=torch.rand(1500, 1, 28, 28))
    loaded, record = helpers.load_pretrained("EBM", "cpu", run.folder)
    x = torch.rand(3, 1, 28, 28)
    assert torch.allclose(loaded(x), model(x), atol=2e-3)
    assert record["chains"].shape == (1000, 1, 28, 28) and record["chains"].dtype == torch.uint8
    assert record["preset"] == "smoke" and record["updates"] == TOTAL and len(record["history"]["loss"]) == TOTAL
    assert not helpers.CHECKPOINTS.exists()  # a smoke run does not touch the committed weights
    partner, record = helpers.load_partner("EBM", run, "cpu")
    assert "preset smoke" in record["label"] and helpers.load_partner("nobody", run, "cpu") is None


def test_weights_that_do_not_fit_are_refused(tmp_cwd):
    run = small_run()
    helpers.save_pretrained(run, helpers.EnergyNetwork(4))
    path = run.folder / "EBM.pt"
    contents = torch.load(path)
    torch.save({**contents, "network_settings": {"width": 8}}, path)
    with pytest.raises(ValueError, match="does not fit"):
        helpers.load_pretrained("EBM", "cpu", run.folder)
    torch.save({**contents, "network": "Transformer"}, path)
    with pytest.raises(ValueError, match="does not fit"):
        helpers.load_pretrained("EBM", "cpu", run.folder)


def test_a_full_run_goes_to_assets_and_checkpoints_all_others_below_runs(tmp_cwd, monkeypatch):
    monkeypatch.delenv("PUBLISH", raising=False)
    assert helpers.open_run("EBM", "full").figures == Path("assets")
    assert helpers.open_run("EBM", "auto").figures == Path("runs/quick/assets")
    assert helpers.open_run("EBM", "auto", device="cuda").figures == Path("assets")
    assert helpers.open_run("EBM", "full", pretrained=True).figures == Path("runs/demo-full/assets")
    assert helpers.open_run("EBM", "full", data="UCI digits").figures == Path("runs/full-uci-digits/assets")
    run = small_run("full")
    helpers.save_pretrained(run, helpers.EnergyNetwork(4))
    assert (helpers.CHECKPOINTS / "EBM.pt").exists()
    monkeypatch.setenv("PUBLISH", "1")
    published = helpers.open_run("EBM", "auto")
    assert published.pretrained and published.preset == "full" and published.figures == Path("assets")


def test_unknown_presets_are_refused(tmp_cwd):
    with pytest.raises(ValueError, match="unknown preset 'fast': choose auto, smoke, quick, full"):
        helpers.open_run("EBM", "fast")
    assert not Path("runs").exists()


def test_unwritable_folders_are_found_before_training(tmp_cwd):
    Path("assets").write_text("a file where a folder belongs")
    with pytest.raises(OSError, match="cannot write to assets/.*nothing was lost"):
        helpers.open_run("EBM", "full")


def test_read_only_folders_are_found_before_training(tmp_cwd, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OSError, match="cannot write to runs/full/: Permission denied"):
        helpers.open_run("EBM", "full")


def test_seeds_repeat():
    first, second = (torch.rand(3, generator=helpers.seed_everything(5)) for _ in range(2))
    assert torch.equal(first, second)


def test_other_data_are_named_on_figures(tmp_cwd):
    import matplotlib.pyplot as plt

    run = helpers.open_run("EBM", "smoke", data="UCI digits")
    figure, _ = plt.subplots()
    helpers.save_figure(figure, run, "figure.png", "UCI digits")
    assert any("UCI digits" in text.get_text() for text in figure.texts) and (run.figures / "figure.png").stat().st_size > 0
    helpers.save_animation(torch.rand(3, 4, 1, 28, 28), run, "film.gif", columns=2)
    assert (run.figures / "film.gif").read_bytes()[:3] == b"GIF"


def test_committed_results_are_read_or_said_to_be_absent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(helpers, "RESULTS", tmp_path)
    (tmp_path / "there.json").write_text('{"n": 3}', encoding="utf-8")
    assert helpers.load_results("there") == {"n": 3} and capsys.readouterr().out == ""
    assert helpers.load_results("elsewhere") is None
    assert "elsewhere.json is not in assets/results/" in capsys.readouterr().out


def test_freed_memory_is_kept_where_glibc_is_there(monkeypatch):
    assert helpers.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(helpers.sys, "platform", "win32")
    assert helpers.keep_freed_memory() is False
