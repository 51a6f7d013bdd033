"""The run's configuration: typed, frozen, every problem reported together, each line beginning with its key.

Nothing is imported here: `config.where` has to work where FBGEMM does not.
"""
