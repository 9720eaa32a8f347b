"""A person takes a day, or UFs of a day, back from readers, and gives them back. Nothing is deleted here: `housekeeping` does that later."""

from imunizacao.withdrawal.change import Action, Change, View, change_day, describe_change

__all__ = ["Action", "Change", "View", "change_day", "describe_change"]
