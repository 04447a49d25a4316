# Node-RED with the nodes and the flows of this repository, for compose.yaml. The context is the top folder.

FROM nodered/node-red:4.1.13
COPY node-red-flows /tmp/flows
# npm only links a folder, so it gets the nodes as a packed file.
RUN npm pack --silent --pack-destination /tmp /tmp/flows && \
    npm install --cache /tmp/npm --omit=dev --no-audit --no-fund --no-update-notifier \
      @flowfuse/node-red-dashboard@1.31.0 /tmp/iforest-server-node-red-contrib-iforest-*.tgz && \
    rm -r /tmp/npm
# A new volume for /data begins with these flows.
RUN rm -f /data/flows.json && \
    node -p 'JSON.stringify(["1-try-it", "2-mqtt-bridge", "3-retrain", "4-dashboard", "6-signal-simulator"] \
      .flatMap((name) => require("/tmp/flows/" + name + ".json")))' >/data/flows.json
