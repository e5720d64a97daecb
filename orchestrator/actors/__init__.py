"""Ray Train worker groups that stay warm between trials, and the dispatcher that feeds them."""
