"""Optimizers of tables and of dense weights, and the schedule that both follow."""
