// VMware's own simulator of vSphere, on a port of 127.0.0.1 until it is ended: the second opinion on
// blockferry's client, for nobody of its authors wrote it.
//
// It prints its port and the SHA-1 thumbprint of its certificate. Its own certificate has a key of
// 1,024 bits, which TLS libraries refuse by now, so it gets one made here.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/vmware/govmomi/simulator"
)

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	model := simulator.ESX()
	if len(os.Args) > 1 && os.Args[1] == "vcenter" {
		model = simulator.VPX()
		// Folders around datacenters too, and a vApp.
		model.Folder, model.App = 1, 1
	}
	defer model.Remove()
	check(model.Create())
	pair := certificate()
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server := model.Service.NewServer()
	defer server.Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	fmt.Printf("%s %x\n", server.URL.Port(), sha1.Sum(pair.Certificate[0]))
	<-ended
}
