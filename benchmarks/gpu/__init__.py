"""What has to be measured on a graphics card, by whoever has one: `make gpu`, or `python -m benchmarks.gpu`.

catalogue   the jobs, the most informative first
slices      each job in a process of its own, its record written at once; stops between jobs and goes on later
shapes, micro_batches, whole_run, resumed      what the processes of the jobs do
utilisation, summary, page                     the driver's tool beside them; one JSON and one page of all records
"""
