"""The report's pages and the JSON API behind them: `fallow-report serve`."""
