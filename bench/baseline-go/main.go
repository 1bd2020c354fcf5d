// The baseline of `npm run bench`: the least that an external processor written in Go can do. It answers request headers (with
// -headers-only) or a whole buffered body, parsed as JSON, with two fixed headers, and serves gRPC health. grpc-go and go-control-plane
// with their defaults, as the Go endpoint pickers use them. It decides nothing.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

type processor struct {
	extprocv3.UnimplementedExternalProcessorServer
	headersOnly bool
	answer      *extprocv3.CommonResponse
}

func (p *processor) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	var body []byte
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			// Envoy is done with the stream and has reset it.
			if status.Code(err) == codes.Canceled {
				return nil
			}
			return err
		}
		var response *extprocv3.ProcessingResponse
		switch phase := request.Request.(type) {
		case *extprocv3.ProcessingRequest_RequestHeaders:
			headers := &extprocv3.HeadersResponse{}
			if p.headersOnly || phase.RequestHeaders.EndOfStream {
				headers.Response = p.answer
			}
			response = &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: headers}}
		case *extprocv3.ProcessingRequest_RequestBody:
			body = append(body, phase.RequestBody.Body...)
			common := &extprocv3.CommonResponse{}
			if phase.RequestBody.EndOfStream {
				var parsed map[string]any
				if err := json.Unmarshal(body, &parsed); err != nil {
					return status.Error(codes.InvalidArgument, err.Error())
				}
				if model, ok := parsed["model"].(string); !ok || model == "" {
					return status.Error(codes.InvalidArgument, "the body names no model")
				}
				common = p.answer
			}
			response = &extprocv3.ProcessingResponse{
				Response: &extprocv3.ProcessingResponse_RequestBody{RequestBody: &extprocv3.BodyResponse{Response: common}},
			}
		default:
			return status.Errorf(codes.Unimplemented, "phase %T", phase)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func header(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func main() {
	address := flag.String("listen", "127.0.0.1:0", "host:port to listen on; port 0 takes a free one")
	headersOnly := flag.Bool("headers-only", false, "answer on the request's headers instead of its body")
	cluster := flag.String("cluster", "chat", "value of the header x-fairlead-cluster")
	endpoint := flag.String("endpoint", "", "value of the header x-gateway-destination-endpoint")
	flag.Parse()

	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, &processor{
		headersOnly: *headersOnly,
		answer: &extprocv3.CommonResponse{
			ClearRouteCache: true,
			HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
				header("x-fairlead-cluster", *cluster),
				header("x-gateway-destination-endpoint", *endpoint),
			}},
		},
	})
	checks := health.NewServer()
	checks.SetServingStatus("readiness", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, checks)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		server.Stop()
	}()
	// What the benchmark waits for.
	fmt.Printf("listening %d\n", listener.Addr().(*net.TCPAddr).Port)
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
