"""The suite has the same short reading items in nine languages: is the loss even over them?

They are English, German, French, Spanish, Russian, Arabic, Hindi, Chinese and Japanese, in Latin,
Cyrillic, Arabic and Devanagari letters, Chinese characters and kana. An item is drawn once, without
a language, then written out in each of them, so the right answer is known and item i of one
language is item i of every other. Digits are 0 to 9 in every language.

The sentences, and the words put into them, were written by the authors and not checked by native
speakers.

The right one of four short answers must be the most probable one. The answers' own texts are
scored, not letters that stand for them, since a small model cannot bind letters.
"""
