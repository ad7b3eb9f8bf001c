"""python -m benchmarks: every measurement in turn (never two at once, two hours), then the README's table."""

from benchmarks import (
    attention,
    data_speed,
    demo,
    faults,
    fuzz_data,
    merge,
    peers,
    planner,
    qwen3_shape,
    readme,
    resume,
    startup,
)

PARTS = (startup, demo, qwen3_shape, attention, peers, planner, resume, faults, merge, data_speed, fuzz_data)
for part in PARTS:  # trl_masks needs data that is not here
    print(f"== {part.__name__.split('.')[1]}")
    part.main()
readme.main()
