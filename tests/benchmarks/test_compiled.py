"""Counts of compiled programs: the parser on programs counted by hand, and the committed table."""

import json

import jax
import pytest

from .compiled import cases, programs, table, worker
from .compiled.__main__ import main

pytestmark = pytest.mark.slow

# Two kernels: 12 + 12 bytes read and 12 written by the first, 12 read and 4 written by the second.
# The constant, the bitcast and what the fused computation does inside launch nothing.
PLAIN = """HloModule plain

%fused (a: f32[3], b: f32[3]) -> f32[3] {
  %a = f32[3]{0} parameter(0)
  %b = f32[3]{0} parameter(1)
  ROOT %sum = f32[3]{0} add(%a, %b)
}

ENTRY %main (x: f32[3], y: f32[3,1]) -> (f32[3], bf16[2]) {
  %x = f32[3]{0} parameter(0), sharding={replicated}
  %y = f32[3,1]{1,0} parameter(1)
  %flat = f32[3]{0} bitcast(%y)
  %c = f32[] constant(2)
  %first = f32[3]{0} fusion(%x, %flat), kind=kLoop, calls=%fused
  %second.1 = bf16[2]{0} custom-call(%first), custom_call_target="short"
  ROOT %both = (f32[3]{0}, bf16[2]{0}) tuple(%first, %second.1)
}
"""

# Floats that are added where indices may repeat, which is not so for the other two.
SCATTERS = """HloModule scatters

ENTRY %main (x: f32[8], n: s32[8], i: s32[4,1], u: f32[4], v: s32[4]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %n = s32[8]{0} parameter(1)
  %i = s32[4,1]{1,0} parameter(2)
  %u = f32[4]{0} parameter(3)
  %v = s32[4]{0} parameter(4)
  %ints = s32[8]{0} scatter(%n, %i, %v), update_window_dims={}, to_apply=%add_ints
  %fixed = f32[8]{0} scatter(%x, %i, %u), unique_indices=true, to_apply=%add
  ROOT %any = f32[8]{0} scatter(%fixed, %i, %u), update_window_dims={}, to_apply=%add
}
"""

EXCHANGES = """HloModule exchanges

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %start = f32[4]{0} all-reduce-start(%x), to_apply=%add
  %done = f32[4]{0} all-reduce-done(%start)
  ROOT %gathered = f32[8]{0} all-gather(%done), dimensions={0}
}
"""


def test_a_kernel_moves_its_operands_and_results():
    assert programs.kernels(PLAIN) == [12 + 12 + 12, 12 + 4]


def test_only_scatters_of_floats_to_indices_that_may_repeat_are_atomic():
    assert [programs.float_atomics(text) for text in (PLAIN, SCATTERS)] == [0, 1]


def test_an_exchange_in_two_halves_counts_once():
    assert [programs.collectives(text) for text in (PLAIN, EXCHANGES)] == [0, 2]


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="No entry computation"):
        programs.kernels("HloModule empty")


@pytest.mark.parametrize("device", ["h100", "v5e"])
def test_no_committed_update_moves_less_than_it_must(device):
    rows = [row for row in table.read().values() if row["device"] == device]
    assert len(rows) == len(worker.chosen([], device))
    for row in rows:
        assert row["limit"] is None or row["bytes"] >= 0.999 * row["limit"], row


def test_plain_sgd_moves_what_it_must_and_no_more():
    # So the counts are those of whole programs, and the limits those of their arrays.
    for (device, _, label), row in table.read().items():
        if device == "h100" and label == "optax.sgd" and row["kernels"] == 1:
            assert row["bytes"] == pytest.approx(row["limit"], rel=1e-3)


def test_cases_have_names_of_their_own_and_can_be_traced():
    names = [case.name for case in cases.cases()]
    assert len(set(names)) == len(names)
    (case,) = worker.chosen(["float32", "fgsgd PIO, sphere+oblique+stiefel"], "v5e")
    update, (params, state, gradient) = case.traced()
    new_params, new_state = jax.eval_shape(update, params, state, gradient)
    assert jax.tree.map(lambda a: a.shape, new_params) == jax.tree.map(lambda a: a.shape, params)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_an_update_that_costs_more_is_named(tmp_path):
    path = tmp_path / "counts.jsonl"
    row = {"device": "h100", "block": "b", "label": "l", "bytes": 20.0, "limit": 12, "kernels": 1,
           "temporary": 0.0, "collectives": 0, "atomics": 0}  # fmt: skip
    table.write([row], "versions", path)
    before = table.read(path)
    assert table.worse([row | {"bytes": 20.1}], before) == []
    (sentence,) = table.worse([row | {"bytes": 21.0}], before)
    assert sentence == "H100, b, l: bytes 21, 20 in the committed table."
    table.write([row | {"bytes": 19.0}, row | {"label": "new"}], "versions", path)
    assert [json.loads(line)["bytes"] for line in path.read_text().splitlines()] == [19.0, 20.0]
    shown = (tmp_path / "COUNTS.md").read_text()
    assert "versions" in shown
    assert shown.count("H100") == 1


def test_an_unknown_device_is_a_mistake(capsys):
    assert main(["--devices", "h200"]) == 2
    assert "h200" in capsys.readouterr().err
