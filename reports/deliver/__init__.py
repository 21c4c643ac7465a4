"""Reports that come by themselves: by mail, to a webhook or into a directory, at the times of a cron line."""
