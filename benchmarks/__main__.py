"""python -m benchmarks: every measurement in turn (never two at once), then the README's table."""

from benchmarks import demo, qwen3_shape, readme, startup

for part in (startup, demo, qwen3_shape):
    print(f"== {part.__name__.split('.')[1]}")
    part.main()
readme.main()
