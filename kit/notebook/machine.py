"""A machine as a card: what works, what does not, and what to type. envcheck has it, which needs no other package."""

from envcheck.card import Card, Findings, Way, card, choices, finding_html

__all__ = ["Card", "Findings", "Way", "card", "choices", "finding_html"]
