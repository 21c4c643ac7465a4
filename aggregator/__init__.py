"""The aggregator: takes in what agents push, keeps one store per VM and one summary per VM."""
