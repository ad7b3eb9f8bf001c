"""Data files -> the samples to train on and to measure on, with a report whose counts add up. No torch here.

reading     the way of all files: found, encoded or found again in the cache, chosen from, reported on
rows/       files -> rows -> conversations; nobody but this room imports it
encode      the way of a row: conversation -> text -> token ids -> store
store       encoded rows on disk
choose      what is trained on and what is measured on; every other row with its reason
batches     the order of the samples

Nothing is cut or left out without being counted.

May import: support, options, models, prompt.
"""

from kit.data.pipeline import Data, Question, look, read
from kit.data.report import DataReport

__all__ = ["Data", "DataReport", "Question", "look", "read"]
