"""Papers of the family ``optimizers``: update rules for training, their guarantees and their memory."""
