"""The README's table of figures, from benchmarks/results/ and the planner, and docs/models.md, the whole of what `kit
models` says: `python -m benchmarks.readme` writes both, a test compares."""

import json

from benchmarks.measure import RESULTS, ROOT
from kit.memory import __main__ as models_command
from kit.memory.fitting import CARDS_GIB, RANK, FittingModel, fitting_models

README, MODELS = ROOT / "README.md", ROOT / "docs" / "models.md"
IN_README = ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "meta-llama/Llama-3.1-8B-Instruct")
START, END = "<!-- figures: made by python -m benchmarks.readme -->", "<!-- end of figures -->"


def result(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table() -> str:
    """Markdown rows: what was measured, the figure, the file."""
    demo, start, shape = result("demo"), result("startup"), result("qwen3_0p6b_cpu")
    data, masks, fuzz = result("data_speed"), result("trl_masks"), result("fuzz_data")
    planner, resume, faults = result("planner"), result("resume"), result("faults")
    tuned, base = demo["tuned_says_its_name"], demo["base_says_its_name"]
    seeds = demo["loss_fall_pct_of_other_seeds"]
    fall = f"{demo['loss_before']:.2f} → {demo['loss_after']:.2f} (−{demo['loss_fall_pct']:.0f} %)"
    fall += (
        f"; {seeds['runs']} other splits: −{seeds['min']:.0f} to −{seeds['max']:.0f} %, median −{seeds['median']:.0f} %"
    )
    speed, peak = shape["tokens_per_s"]["median"], shape["peak_gib"]["max"]
    starts = (start[name]["wall_s"]["median"] for name in ("envcheck", "help", "plan"))
    rows = [
        (
            "`make demo` after setup; answers with the name it was taught",
            f"{demo['wall_s']['median']:.0f} s, {demo['peak_gib']['median']:.2f} GiB; "
            f"{sum(tuned)} of {len(tuned)} (before: {sum(base)})",
            "demo",
        ),
        ("its held-out loss", fall, "demo"),
        ("`envcheck --no-smoke`, `kit.train --help`, `--plan`", ", ".join(f"{s:.2f} s" for s in starts), "startup"),
        (f"Qwen3-0.6B shape, 4 bit, batch {shape['batch']}", f"{speed:.0f} tokens/s, {peak:.2f} GiB", "qwen3_0p6b_cpu"),
    ]
    many = data["by_rows"][str(data["rows"])]
    share_pct = 100 * data["speed_of_tokenizers_library_all_rows"]
    rows += [
        (
            f"data: {data['rows']:,} rows to tokens, then again",
            f"{many['first_s']:.0f} s ({share_pct:.0f} % of the bare `tokenizers` library's speed), "
            f"{many['peak_gib']:.2f} GiB; {many['second_s']:.1f} s",
            "data_speed",
        ),
        ("data: rows compared with TRL's ids and masks", _compared(masks), "trl_masks"),
        ("data: made-up broken files that gave no traceback", f"{fuzz['inputs_without_a_failure']:,}", "fuzz_data"),
        ("speed of the kit over Unsloth's notebooks, TRL's documentation (small Qwen3)", _speeds(), "peers"),
        ("memory, planned / measured: what stays; activations", _planned(planner), "planner"),
        (
            "runs killed at a random moment that went on equal to the last bit (CPU); other faults with nothing lost",
            f"{resume['runs_with_all_losses_equal_to_the_last_bit']} of {resume['kills']}; "
            f"{faults['as_they_must_be']} of {faults['faults']}",
            "resume, faults",
        ),
    ]
    merge, parity = result("merge"), result("parity")
    rows += [
        (
            f"{merge['what']}: merged, and equal to PEFT's merge to the last bit",
            f"{merge['hf_nf4']['wall_s']:.0f} s, {merge['hf_nf4']['peak_gib']:.2f} GiB; "
            f"{merge['tensors_bit_equal_to_peft_in_float32_then_one_cast']} tensors of "
            f"{merge['tensors_bit_equal_to_peft_in_float32_then_one_cast'] + merge['tensors_that_differ']}",
            "merge",
        ),
        ("same next token as the tuned model, small Qwen3, 200 GSM8K questions", _same_tokens(parity), "parity"),
    ]
    machine = demo["machine"]
    head = f"Measured on {machine['cores']} cores ({machine['cpu']}), no graphics card, {demo['measured']}:"
    lines = [f"| {what} | {figure} | {_links(files)} |" for what, figure, files in rows]
    lines.append(_longest_samples([model for model in fitting_models() if model.name in IN_README]))
    return "\n".join([head, "", "| what | figure | file |", "|---|---|---|", *lines])


def _longest_samples(models: list[FittingModel]) -> str:
    sizes = ", ".join(map(str, CARDS_GIB))
    figures = []
    for model in models:
        longest = (str(tokens // 1000) if tokens else "–" for tokens in model.longest_tokens.values())
        figures.append(f"{model.name.rpartition('/')[2]} {' / '.join(longest)}")
    what = f"longest sample planned to fit on {sizes} GiB, thousands of tokens, LoRA rank {RANK}"
    return f"| {what} | {'; '.join(figures)} | [models](docs/models.md) |"


def models_page() -> str:
    """docs/models.md; what is on this machine is left out."""
    rows = [models_command.HEADS, *map(models_command.cells, fitting_models())]
    lines = [f"| {' | '.join(row[:-1])} |" for row in rows]
    lines.insert(1, f"|{'---|' * (len(rows[0]) - 1)}")
    return "\n".join(["# Models and cards", "", *MODELS_INTRODUCTION, "", models_command.ABOUT, "", *lines, ""])


MODELS_INTRODUCTION = (
    "What `kit models` says (`--json` for programs), made by `python -m benchmarks.readme`. The sizes are those of the",
    "published `config.json` of each; `kit/models/assets/shapes.toml` has the source of every number. A plan of them",
    "needs neither network nor weights: `kit train --preset rtx5080 --plan`. They are plans, not measurements.",
)


def _links(files: str) -> str:
    return ", ".join(f"[{file}](benchmarks/results/{file}.json)" for file in files.split(", "))


def _same_tokens(parity: dict) -> str:
    shown = {**{row["precision"]: row for row in parity["tiny_fp32"]["rows"]}, "bf16": parity["tiny_bf16"]["rows"][0]}
    return ", ".join(f"{name} {shown[name]['top1_pct']:.1f} %" for name in ("fp32", "bf16", "f16", "q8_0", "q4_0"))


def _speeds() -> str:
    job = result("peers")["J1"]
    over, share = job["speed_of_the_kit_over_that_of"], job["share_of_matrix_product_floor"]["kit"]
    ratios = ", ".join(f"{over[name]['median']:.1f} x" for name in ("unsloth", "trl"))
    return f"{ratios} on a CPU; {100 * share:.0f} % of the matrix products' floor"


def _planned(planner: dict) -> str:
    low, high = (choose(planner[name][side] for name in ("saved_off", "saved_on"))
                 for choose, side in ((min, "min"), (max, "max")))  # fmt: skip
    return f"{planner['loaded']['min']:.3f} to {planner['loaded']['max']:.3f}; {low:.2f} to {high:.2f}"


def _compared(masks: dict) -> str:
    rows = sum(max(figures["rows"] for figures in templates.values()) for templates in masks["files"].values())
    return f"{rows:,}: {masks['unexplained']} differ without one of {len(masks['explanations'])} stated reasons"


def with_figures(text: str) -> str:
    before, rest = text.split(START)
    return f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    README.write_text(with_figures(README.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    MODELS.write_text(models_page(), encoding="utf-8", newline="\n")
    print(f"{README.name} and {MODELS.name} brought up to date")


if __name__ == "__main__":
    main()
