"""The data arm: sources, index, plan, reader and stream; numpy and Arrow, no torch."""
