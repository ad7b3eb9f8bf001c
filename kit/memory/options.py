"""The options of kit.models."""

from kit.options.option import Door


class ModelsCommand(Door):
    """Which models fit which card, and which are on this machine.

      kit models            name, licence, size, the longest sample on cards of 8 to 32 GiB, here or not
      kit models --json     the same for a program

    Every other model of a family that the kit knows can be trained too: kit train --model NAME --plan says whether.
    Exit status: 0 done, 2 wrong usage. No network, no card and no torch are needed."""

    door = "models"
