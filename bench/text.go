package bench

import (
	"math"
	"math/rand/v2"
	"strings"
)

// Texts are made of words as frequent as those of a language (Zipf's law), for a server that looks at them: it
// indexes each word of a message. They are the same in every run.
const vocabulary = 2000

// Words returns the vocabulary, the most frequent word first.
func Words() []string {
	random := rand.New(rand.NewPCG(1, 2))
	const consonants, vowels = "bcdfghjklmnprstvw", "aeiou"
	words, taken := make([]string, 0, vocabulary), map[string]bool{}
	for len(words) < vocabulary {
		var b strings.Builder
		for range 1 + min(3, len(words)/50+random.IntN(3)) { // frequent words are short
			b.WriteByte(consonants[random.IntN(len(consonants))])
			b.WriteByte(vowels[random.IntN(len(vowels))])
		}
		if w := b.String(); !taken[w] {
			taken[w] = true
			words = append(words, w)
		}
	}
	return words
}

// texts returns n texts of exactly size bytes.
func texts(n, size int) []string {
	words := Words()
	random := rand.New(rand.NewPCG(3, 4))
	all := make([]string, n)
	for i := range all {
		var b strings.Builder
		for b.Len() < size {
			b.WriteString(words[min(int(math.Exp(random.Float64()*math.Log(vocabulary+1)))-1, vocabulary-1)])
			b.WriteByte(' ')
		}
		all[i] = b.String()[:size]
	}
	return all
}
