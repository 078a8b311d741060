"""What the notebooks use and need not show: data, device, samplers, metrics, runs, figures."""
