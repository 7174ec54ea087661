"""What is trained: adapter methods of PEFT, or the model itself."""
