"""python -m benchmarks: every measurement in turn (never two at once, an hour), then the README's table."""

from benchmarks import data_speed, demo, fuzz_data, planner, qwen3_shape, readme, startup

for part in (startup, demo, qwen3_shape, planner, data_speed, fuzz_data):  # trl_masks needs data that is not here
    print(f"== {part.__name__.split('.')[1]}")
    part.main()
readme.main()
