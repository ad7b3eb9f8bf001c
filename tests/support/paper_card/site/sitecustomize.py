"""Python imports a module of this name at its start: with this folder on PYTHONPATH there is a card, made of paper."""

from tests.support.paper_card.installing import install

install()
