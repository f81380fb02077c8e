"""Comparing logs of evaluations, whoever wrote them."""
