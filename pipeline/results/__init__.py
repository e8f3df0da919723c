"""What is made of a trained model and of data: evaluations, predictions, figures, pages. `README.md` says how."""
