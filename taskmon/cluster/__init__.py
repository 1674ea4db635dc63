"""What taskmon asks of the cluster: publishing, results, commands, inspects and queue lengths, each call bounded."""
