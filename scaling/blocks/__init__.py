"""Reusable blocks: ``self.param`` and einsum, parameters as plain nested dicts that vmap, shard and checkpoint."""
