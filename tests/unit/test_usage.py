"""What the hardware panel shows is what the driver and the kernel say."""

from core import usage

GPUS = """\
0, GPU-aa, 87, 4312, 23028, 61, 214.31, 300.00, NVIDIA A10G
1, GPU-bb, [N/A], 12, 81559, 33, [N/A], [N/A], NVIDIA H100 80GB HBM3, MIG
"""


def test_a_gpu_has_its_load_memory_temperature_and_power():
    first, second = usage.parse_gpus(GPUS)
    assert (first.name, first.utilisation, first.temperature_c, first.power_w) == ("NVIDIA A10G", 0.87, 61, 214.31)
    assert first.memory_used_bytes == 4312 * 2**20
    assert second.utilisation is None and second.power_limit_w is None
    assert second.name == "NVIDIA H100 80GB HBM3, MIG"


def test_processes_are_named_without_their_folder_and_know_their_gpu():
    found = usage.parse_processes("GPU-bb, 4242, 512, /home/someone/.venv/bin/python\n", usage.parse_gpus(GPUS))
    assert found == (usage.ProcessUsage(4242, "python", 512 * 2**20, 1),)


def test_an_answer_that_is_no_table_gives_no_gpus():
    assert usage.parse_gpus("NVIDIA-SMI has failed\n") == ()


def test_this_machine_has_a_load_between_nothing_and_all():
    seen = usage.usage()
    assert 0 <= seen.cpu_share <= 1 and 0 < seen.ram_used_bytes <= seen.ram_total_bytes
    assert usage.usage() is seen, "two looks within a second are one"
