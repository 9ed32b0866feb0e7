"""What a modem says of its network.

Files in the order of the flow: ``port`` exchanges a command for reply lines, ``line`` takes a line apart, ``gpp``,
``quectel``, ``simcom`` and ``huawei`` read it under ``ranges`` and ``sinr``, ``dialects`` picks the reader and groups
lines into a ``reading``, ``merge`` combines the readings of one poll. ``scan`` reads the networks that were received,
``neighbour`` the cells in sight. ``at_modem`` spells out what is asked. Errors: `ParseError` from every reader,
`ModemUnavailable` from the port and the modem, `ModemRefused` from the modem; nothing else.
"""
