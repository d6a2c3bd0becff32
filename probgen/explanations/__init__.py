"""Derivations line by line, each line with its number: on a small exact model, or on a trained run.

Imports nothing heavy: the list of topics is shown without it.
"""

from probgen.explanations.topics import TOPICS, Topic, topic_named

__all__ = ["TOPICS", "Topic", "topic_named"]
