"""Process group, plan, shard, fill, collectives: the only place that knows there is more than one rank."""
