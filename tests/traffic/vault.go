package traffic

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Fetch asks a Vault for a secret over a connection of its own.
func Fetch(ctx context.Context, n Network, address, name string) (string, error) {
	transport := &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/"+name, nil)
	if err != nil {
		return "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close() // read to its end below
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the vault at %s says %s", address, response.Status)
	}
	return string(body), nil
}
