"""Reads the folder that `export` has written: vectors by raw id, scores, recommendations. Needs torch, nothing else.

    import sys; sys.path.insert(0, "runs/mine/export")  # or: from sharded_emb.serving.standalone import Exported
    from serving import Exported

    exported = Exported("runs/mine/export")
    exported.vectors("item", ["B0001", "B0002"])                      # (2, D)
    exported.neighbours("item", "B0001")                              # [(raw id, cosine), ...], nearest first
    exported.recommend({"items": [["B0001", "B0002"], ["B0003"]]})    # of each row [(raw id, score), ...], best first
    exported.probabilities({"item": [7], "genres": [["Drama"]], ...})    # of a click model: (B), or (B, tasks)

Inputs are columns of the dataset by name (`Exported.columns`): of each row a value, or a list of them, oldest first, or
a text in place of its words. Ids are raw, as the log had them; what `prepare` makes of a column, such as a bucket of
numbers, is wanted made. One that a vocabulary does not know, and None, is read as unknown (`Exported.known` tells
which). Tables stay on the disk and are mapped into memory, so that one larger than the memory can be served.
"""

from .exported import Exported as Exported
