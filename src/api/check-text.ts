/** What a decoder goes on from and an encoder reads where nobody says otherwise. */
export const PROMPT = 'Once upon a time'

/** Tokens that a decoder is asked for. */
export const PROMPT_TOKENS = 16

/** Plain English of many subjects, to see whether a model foretells language at all: no more can be said of so little. */
export const SHORT_TEXT = `The old bridge was built of grey stone, and people said that it had stood there longer than \
the town itself. Every morning the baker crossed it with his cart, and every evening the children ran back over it on \
their way home from school. In winter the river froze, and the water under the arches made a low sound, as if someone \
were speaking in another room.

When the engineers came to measure it, they found that the two middle pillars had moved by the width of a hand. They \
wrote a long report with many numbers in it and sent it to the council. The council read the first page, thanked them, \
and asked how much a new bridge would cost. Nobody had an answer, so the question was put off until the spring, and \
then until the next year.`
