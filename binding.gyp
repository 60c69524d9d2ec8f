{
  # A door to scripts/build-native.js for node-gyp and prebuildify: it names no source and no flag of its own.
  "targets": [
    {
      "target_name": "auxgrad",
      "type": "none",
      "actions": [
        {
          "action_name": "build",
          "inputs": [],
          # Never made, so the action always runs; the script knows what is out of date.
          "outputs": ["<(PRODUCT_DIR)/always"],
          "action": ["node", "scripts/build-native.js", "--config", "<(CONFIGURATION_NAME)"],
        }
      ],
    }
  ],
}
