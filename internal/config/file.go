package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// readFile sets c from a YAML or JSON file and returns the names of the flags that it stands for.
// Unknown keys are ignored, as in etcd, whose sample file contains some.
func (c *Config) readFile(path string) (map[string]bool, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	keys, err := flatten(content)
	if err != nil {
		return nil, fmt.Errorf("configuration file %s: %w", path, err)
	}
	given := map[string]bool{}
	for _, o := range append(newTable(c).options, fileOnly(c)...) {
		raw, found := keys[o.key]
		if o.key == "" || !found || string(raw) == "null" {
			continue
		}
		given[o.Name] = true
		if err := o.setFromFile(raw); err != nil {
			var bad *FileURLError
			if errors.As(err, &bad) {
				return given, err
			}
			return given, fmt.Errorf("configuration file %s: %s: %w", path, o.key, err)
		}
	}
	if c.SelfSignedCertValidity == 0 {
		c.SelfSignedCertValidity = 1
	}
	d := &c.Discovery
	if (d.SRVDomain != "" || len(d.Endpoints) > 0) && c.InitialCluster == Default().InitialCluster {
		c.InitialCluster = ""
	}
	return given, nil
}

// sections are the keys of the file that hold further keys.
func section(key string) bool {
	switch key {
	case "client-transport-security", "peer-transport-security", "socket-options",
		"discovery-config", "discovery-config.client", "discovery-config.client.secure", "discovery-config.client.auth":
		return true
	}
	return false
}

// flatten is the file's settings by their path.
func flatten(content []byte) (map[string]json.RawMessage, error) {
	asJSON, err := yaml.YAMLToJSON(content)
	if err != nil {
		return nil, err
	}
	flat := map[string]json.RawMessage{}
	return flat, flattenInto(flat, "", asJSON)
}

func flattenInto(flat map[string]json.RawMessage, prefix string, raw json.RawMessage) error {
	if string(bytes.TrimSpace(raw)) == "null" {
		return nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		if prefix == "" {
			return errors.New("want one setting a line, 'name: value'")
		}
		return fmt.Errorf("invalid %s", strings.TrimSuffix(prefix, "."))
	}
	for key, value := range keys {
		path := prefix + strings.ToLower(key)
		if !section(path) {
			flat[path] = value
			continue
		}
		if err := flattenInto(flat, path+".", value); err != nil {
			return err
		}
	}
	return nil
}

// setFromFile sets the option from a JSON value of its form.
func (o *option) setFromFile(raw json.RawMessage) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return err
	}
	text, err := o.form.text(decoded)
	if err != nil {
		return fmt.Errorf("%w, not %s", err, raw)
	}
	if text == "" && o.form != formText {
		return nil
	}
	if o.Name == "initial-cluster-state" && text == "" {
		text = ClusterNew
	}
	if o.Name == "v2-deprecation" {
		return nil // etcd takes any text here
	}
	if err := o.Value.Set(text); err != nil {
		if o.form == formURLs {
			return &FileURLError{Key: o.key, Err: err}
		}
		return fmt.Errorf("invalid value %q: %w", text, err)
	}
	return nil
}

// text is a decoded JSON value as the option's flag would be given it.
func (f form) text(decoded any) (string, error) {
	switch v := decoded.(type) {
	case string:
		if f == formText || f == formURLs {
			return v, nil
		}
	case json.Number:
		switch f {
		case formNumber:
			return v.String(), nil
		case formDuration:
			return v.String() + "ns", nil
		}
	case bool:
		if f == formBool {
			return strconv.FormatBool(v), nil
		}
	case []any:
		if f == formList {
			return joinWords(v)
		}
	}
	return "", fmt.Errorf("want %s", f.want())
}

func joinWords(list []any) (string, error) {
	words := make([]string, 0, len(list))
	for _, v := range list {
		word, ok := v.(string)
		if !ok || strings.Contains(word, ",") {
			return "", errors.New("want a list of strings without commas")
		}
		words = append(words, word)
	}
	return strings.Join(words, ","), nil
}

func (f form) want() string {
	switch f {
	case formNumber:
		return "an integer"
	case formBool:
		return "true or false"
	case formDuration:
		return "integer nanoseconds"
	case formList:
		return "a list of strings"
	case formURLs:
		return "a comma list of URLs in one string"
	default:
		return "a string"
	}
}
