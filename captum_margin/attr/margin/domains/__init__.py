"""What a node of the graph can be: one region, or a union of many, hard or soft."""
