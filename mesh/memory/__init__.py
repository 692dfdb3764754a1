"""Memory: index, retrieval, packing, consolidation and forgetting, without Ray or a database."""
