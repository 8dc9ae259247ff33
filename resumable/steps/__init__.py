"""How many samples an optimizer step takes, and where it begins and ends, in whole numbers.

schedules        ConstantBatchSize, LinearRampup, StepSchedule
stages           the methods of every schedule whose sizes change at known places
schedule_text    step schedules as text, in Megatron-LM's grammar
batch_plan       how an epoch falls into batches
step_plan        how batches fall into the steps of a schedule, and whether all of them do
"""
