"""Work that is done once, on the cluster, by Ray's job API: training."""
