package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheExclusionsOfTheTreeHaveReasons(t *testing.T) {
	_, err := parseExclusions(exclusionList)
	require.NoError(t, err)
}

func TestParseExclusions(t *testing.T) {
	got, err := parseExclusions("# why\n\n  TestA: it asks: much\nTestB/of_two[1]: another\n")
	require.NoError(t, err)
	require.Equal(t, []exclusion{{"TestA", "it asks: much"}, {"TestB/of_two[1]", "another"}}, got)
	require.Equal(t, `^TestA$|^TestB$/^of_two\[1\]$`, skipPattern(got))

	for text, problem := range map[string]string{
		"TestA\n":              "line 1: no reason why TestA is excluded",
		"TestA:  ":             "line 1: no reason why TestA is excluded",
		"\nsome words: x":      `line 2: "some words" is not a test's name`,
		"TestA: x\nTestA: y\n": "line 2: TestA is excluded twice",
	} {
		_, err := parseExclusions(text)
		require.EqualError(t, err, problem)
	}
}
