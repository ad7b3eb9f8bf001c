"""Bytes and seconds inside; GiB and h:mm:ss on the screen."""

MIB = 1 << 20
GIB = 1 << 30


def gib(count_bytes: float) -> str:
    return f"{count_bytes / GIB:.2f}"


def clock(seconds: float) -> str:
    whole = round(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
    )
